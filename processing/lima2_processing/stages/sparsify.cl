// The pixels above the background. Built behind background.cl.

// What no pixel between a bin and the next one can pick below: the lower end of both bins' thresholds.
//
// limit:     the result, n_bins a frame; infinity where there is no background
kernel void limits(global const float *restrict mean, global const float *restrict deviation,
                   global float *restrict limit, const float cutoff, const float noise, const uint n_bins)
{
    const uint bin = get_global_id(0);
    const size_t frame = get_global_id(1) * (size_t)n_bins;
    const uint next = min(bin + 1, n_bins - 1);
    const float level = fmin(mean[frame + bin], mean[frame + next]);
    const float sigma = fmin(deviation[frame + bin], deviation[frame + next]);
    const float above = cutoff * sqrt(sigma * sigma + noise * noise);
    // A little lower, so that rounding can't hide a pixel from the exact test.
    limit[frame + bin] = isnan(level) ? INFINITY : level + above - 1e-5f * (fabs(level) + above);
}

// Finds the pixels with value > background + cutoff * uncertainty, in order.
//
// image:     values of all frames, n_pixels each
// position:  of each pixel on the scale of bins; NaN: belongs to none
// found:     room for as many positions as there are pixels; each chunk fills its own part from its start
// counts:    how many each chunk found, n_chunks a frame
kernel void find(global const float *restrict image, global const float *restrict position,
                 global const float *restrict mean, global const float *restrict deviation,
                 global const float *restrict limit, global uint *restrict found, global uint *restrict counts,
                 const float cutoff, const float noise, const uint n_pixels, const uint n_bins, const uint chunk)
{
    const uint part = get_global_id(0);
    const size_t frame = get_global_id(1);
    global const float *values = image + frame * n_pixels;
    global const float *means = mean + frame * n_bins;
    global const float *deviations = deviation + frame * n_bins;
    global const float *lowest = limit + frame * n_bins;
    global uint *mine = found + frame * n_pixels + (size_t)part * chunk;
    const uint first = part * chunk;
    const uint last = min(first + chunk, n_pixels);
    uint n = 0;
    for (uint i = first; i < last; i++) {
        const float place = position[i];
        if (isnan(place) || !(values[i] > lowest[(uint)place]))
            continue;
        const float2 level = background_at(place, means, deviations, noise, n_bins);
        if (values[i] > level.x + cutoff * level.y)
            mine[n++] = i;
    }
    counts[frame * get_global_size(0) + part] = n;
}

// Moves what the chunks found next to each other.
//
// offsets:    where each chunk's pixels go, n_chunks a frame
// index, intensity:  the result: positions within the frame, and values
kernel void pack(global const float *restrict image, global const uint *restrict found,
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
