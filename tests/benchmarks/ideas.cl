// Ideas that were tried, measured by bench_ideas.py, and not taken (yet). Built behind pixels.cl.

#define BLOCK 64

// One pass a frame: counts values, and lists candidates above the last frame's thresholds.
#ifdef ONE_PASS
kernel void one_pass(global const PIXEL *restrict image, global const ushort *restrict bins,
                     global uint *restrict table, global const float *restrict limit, global uint *restrict found,
                     global uint *restrict counts, const uint ceiling, const uint n_pixels, const uint n_bins,
                     const uint chunk)
{
    global uint *restrict mine = table + get_global_id(0) * (n_bins + 1) * LEVELS;
    for (uint i = 0; i < (n_bins + 1) * LEVELS; i++)
        mine[i] = 0;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    uint n = 0;
    for (uint block = first; block < last; block += BLOCK) {
        const uint end = min(block + BLOCK, last);
        int any = 0;
        for (uint i = block; i < end; i++) {
            const uint value = image[i];
            const uint bin = bins[i];
            any |= (float)value > limit[bin];
            if (value < ceiling)
                mine[bin * LEVELS + min(value, LEVELS - 1u)]++;
        }
        if (!any)
            continue;
        for (uint i = block; i < end; i++)
            if ((float)image[i] > limit[bins[i]] && image[i] < ceiling)
                found[first + n++] = i;
    }
    counts[get_global_id(0)] = n;
}
#endif

// Jungfrau words with 16-bit calibration planes: pedestals in quarters of an ADC unit, factors against the largest.
#ifdef NARROW
kernel void narrow(global const ushort *restrict raw, global const ushort *restrict pedestal,
                   global const ushort *restrict factor, global float *restrict photons, const float scale,
                   const uint n_pixels, const uint chunk)
{
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint block = first; block < last; block += BLOCK) {
        const uint end = min(block + BLOCK, last);
        uint all = 0;
        for (uint i = block; i < end; i++)
            all |= raw[i];
        if (all <= 0x3FFFu) {
            for (uint i = block; i < end; i++)
                photons[i] = ((float)raw[i] - 0.25f * pedestal[i]) * (scale * factor[i]);
        } else {
            for (uint i = block; i < end; i++) {
                const uint stage = min((uint)raw[i] >> 14, 2u);
                const size_t plane = (size_t)stage * n_pixels + i;
                photons[i] = ((float)(raw[i] & 0x3FFFu) - 0.25f * pedestal[plane]) * (scale * factor[plane]);
            }
        }
    }
}
#endif

// Bitshuffled LZ4, decoded block by block and counted at once: the image itself is never written.
#ifdef DECODE
#define BLOCK_BYTES 8192
#define ELEMENTS (BLOCK_BYTES / 2)

// Decodes one LZ4 block (github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md) of `size` bytes.
void lz4(global const uchar *from, const uint size, uchar *to)
{
    uint in = 0, out = 0;
    while (in < size) {
        const uint token = from[in++];
        uint literals = token >> 4, more = 255;
        if (literals == 15)
            do {
                more = from[in++];
                literals += more;
            } while (more == 255);
        for (uint i = 0; i < literals; i++)
            to[out++] = from[in++];
        if (in >= size)
            break;
        const uint back = from[in] | (uint)from[in + 1] << 8;
        in += 2;
        uint match = token & 15;
        if (match == 15)
            do {
                more = from[in++];
                match += more;
            } while (more == 255);
        for (uint i = 0; i < match + 4; i++, out++)
            to[out] = to[out - back];
    }
}

// Puts bit j of 8 bytes into byte j (Hacker's Delight, 7-3).
ulong transpose(ulong x)
{
    ulong t = (x ^ x >> 7) & 0x00AA00AA00AA00AAul;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCCul;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0ul;
    return x ^ t ^ t << 28;
}

kernel void decode(global const uchar *restrict packed, global const uint *restrict starts,
                   global const ushort *restrict bins, global uint *restrict table, const uint ceiling,
                   const uint n_blocks, const uint n_bins, const uint per_item)
{
    global uint *restrict mine = table + get_global_id(0) * (n_bins + 1) * LEVELS;
    for (uint i = 0; i < (n_bins + 1) * LEVELS; i++)
        mine[i] = 0;
    uchar planes[BLOCK_BYTES];
    for (uint block = get_global_id(0) * per_item; block < min((uint)(get_global_id(0) + 1) * per_item, n_blocks); block++) {
        lz4(packed + starts[block], starts[block + 1] - starts[block] - 4, planes);
        for (uint group = 0; group < ELEMENTS / 8; group++) {
            ulong low = 0, high = 0;
            for (uint bit = 0; bit < 8; bit++) {
                low |= (ulong)planes[bit * (ELEMENTS / 8) + group] << (8 * bit);
                high |= (ulong)planes[(bit + 8) * (ELEMENTS / 8) + group] << (8 * bit);
            }
            low = transpose(low);
            high = transpose(high);
            for (uint i = 0; i < 8; i++) {
                const uint value = (uint)(low >> (8 * i) & 255) | (uint)(high >> (8 * i) & 255) << 8;
                const uint bin = bins[block * ELEMENTS + group * 8 + i];
                if (value < ceiling)
                    mine[bin * LEVELS + min(value, LEVELS - 1u)]++;
            }
        }
    }
}
#endif
