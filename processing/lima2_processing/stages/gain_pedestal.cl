// Raw words of a Jungfrau to photons.
//
// A word holds the gain stage in bits 15-14 (0: G0, 1: G1, 3: G2; 2 is no stage) and the ADC value in bits 13-0.

#define ADC 0x3FFFu
#define SATURATED 0xC000u  // G2 with nothing left
#define ERROR_LOW 0x4000u
#define ERROR_HIGH 0xFFFFu
#define BLOCK 64  // pixels that are looked at together: nearly all blocks are in G0 throughout

// One word of any stage.
//
// at:        the pixel
// Returns photons; NaN: bad or broken, infinity: saturated.
float photons_of(const uint word, global const float *pedestal, global const float *factor, const uint at,
                 const uint n_pixels)
{
    const uint stage = word >> 14;
    const size_t plane = (size_t)min(stage, 2u) * n_pixels + at;
    if (stage == 2u || word == ERROR_LOW || word == ERROR_HIGH || isnan(factor[plane]))
        return NAN;
    return word == SATURATED ? INFINITY : ((float)(word & ADC) - pedestal[plane]) * factor[plane];
}

// raw:       words of all frames, n_pixels each
// pedestal:  ADC value without light, three planes of n_pixels: G0, G1, G2
// factor:    photons per ADC unit, three planes likewise; NaN marks a bad pixel
// photons:   the result, n_pixels a frame
// chunk:     pixels of one work-item
kernel void correct(global const ushort *restrict raw, global const float *restrict pedestal,
                    global const float *restrict factor, global float *restrict photons, const uint n_pixels,
                    const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    global const ushort *words = raw + frame;
    global float *values = photons + frame;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint block = first; block < last; block += BLOCK) {
        const uint end = min(block + BLOCK, last);
        uint all = 0;
        for (uint i = block; i < end; i++)
            all |= words[i];
        if (all <= ADC) {
            for (uint i = block; i < end; i++)
                values[i] = ((float)words[i] - pedestal[i]) * factor[i];
        } else {
            for (uint i = block; i < end; i++)
                values[i] = photons_of(words[i], pedestal, factor, i, n_pixels);
        }
    }
}
