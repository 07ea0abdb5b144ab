// The pixels above the background. Built behind pixels.cl and background.cl.

#define BLOCK 64  // pixels that are looked at together: nearly all blocks hold nothing to be picked

// What no pixel of a bin can be picked below: the lower end of the thresholds of the bin and its two neighbours, between
// whose centres its pixels lie. Behind the last bin comes infinity, for the pixels of no bin.
//
// limit:     the result, n_bins + 1 a frame; infinity where there is no background
kernel void limits(global const float *restrict mean, global const float *restrict deviation,
                   global float *restrict limit, const float cutoff, const float noise, const uint n_bins)
{
    const uint bin = get_global_id(0);
    const size_t frame = get_global_id(1);
    float level = NAN, sigma = NAN;
    for (uint near = max(bin, 1u) - 1; near <= min(bin + 1, n_bins - 1) && bin < n_bins; near++) {
        level = fmin(level, mean[frame * n_bins + near]);
        sigma = fmin(sigma, deviation[frame * n_bins + near]);
    }
    const float above = cutoff * sqrt(sigma * sigma + noise * noise);
    // A little lower, so that rounding can't hide a pixel from the exact test.
    limit[frame * (n_bins + 1) + bin] = isnan(level) ? INFINITY : level + above - 1e-5f * (fabs(level) + above);
}

// Finds the pixels with value > background + cutoff * uncertainty, in order.
//
// image:     of all frames, n_pixels each
// bins:      of each pixel; n_bins: belongs to none
// position:  of each pixel on the scale of bins; NaN: belongs to none
// found:     room for as many positions as there are pixels; each chunk fills its own part from its start
// counts:    how many each chunk found, n_chunks a frame
kernel void find(global const PIXEL *restrict image, global const ushort *restrict bins,
                 global const float *restrict position, global const float *restrict mean,
                 global const float *restrict deviation, global const float *restrict limit,
                 global uint *restrict found, global uint *restrict counts, const float cutoff, const float noise,
                 const float ceiling, const uint n_pixels, const uint n_bins, const uint chunk)
{
    const uint part = get_global_id(0);
    const size_t frame = get_global_id(1);
    global const PIXEL *values = image + frame * n_pixels;
    global const float *means = mean + frame * n_bins;
    global const float *deviations = deviation + frame * n_bins;
    global const float *lowest = limit + frame * (n_bins + 1);
    global uint *mine = found + frame * n_pixels + (size_t)part * chunk;
    const uint first = part * chunk;
    const uint last = min(first + chunk, n_pixels);
    uint n = 0;
    for (uint block = first; block < last; block += BLOCK) {
        const uint end = min(block + BLOCK, last);
        int any = 0;
        for (uint i = block; i < end; i++)
            any |= (float)values[i] > lowest[bins[i]];
        if (!any)
            continue;
        for (uint i = block; i < end; i++) {
            const float value = pixel_value(values[i], ceiling);
            if (!(value > lowest[bins[i]]))
                continue;
            const float2 level = background_at(position[i], means, deviations, noise, n_bins);
            if (value > level.x + cutoff * level.y)
                mine[n++] = i;
        }
    }
    counts[frame * get_global_size(0) + part] = n;
}

// Moves what the chunks found next to each other.
//
// offsets:    where each chunk's pixels go, n_chunks a frame
// index, intensity:  the result: positions within the frame, and values
kernel void pack(global const PIXEL *restrict image, global const uint *restrict found,
                 global const uint *restrict counts, global const uint *restrict offsets, global uint *restrict index,
                 global float *restrict intensity, const uint n_pixels, const uint chunk)
{
    const uint part = get_global_id(0);
    const size_t frame = get_global_id(1);
    const size_t slot = frame * get_global_size(0) + part;
    global const uint *mine = found + frame * n_pixels + (size_t)part * chunk;
    for (uint i = 0; i < counts[slot]; i++) {
        index[offsets[slot] + i] = mine[i];
        intensity[offsets[slot] + i] = image[frame * n_pixels + mine[i]];
    }
}
