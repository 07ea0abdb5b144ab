// Sigma-clipped mean and standard deviation of each radial bin.

// The cut for n values that leaves half a value to chance (Chauvenet's criterion, as pyFAI has it).
float chauvenet(const float n)
{
    return sqrt(2.0f * log(max(n, 3.0f) * 0.3989422804f));  // 1 / sqrt(2 pi)
}

// image:     values of all frames, n_pixels each; not finite: not used
// pixels:    positions of the pixels of all bins, bin after bin
// ends:      where in `pixels` each bin ends
// gathered:  room for the values of all bins, n_binned a frame
// mean, deviation:  the result, n_bins a frame; NaN for a bin without values
// cutoff:    values further from the mean than so many deviations are clipped, at least Chauvenet's cut; 0: only that
// cycles:    times to clip at most
// poisson:   not 0: the deviation is the mean's square root
// per_item:  bins of one work-item
kernel void radial_background(global const float *restrict image, global const uint *restrict pixels,
                              global const uint *restrict ends, global float *restrict gathered,
                              global float *restrict mean, global float *restrict deviation, const float cutoff,
                              const int cycles, const int poisson, const uint n_pixels, const uint n_binned,
                              const uint n_bins, const uint per_item)
{
    const size_t frame = get_global_id(1);
    global const float *values_in = image + frame * n_pixels;
    const uint first_bin = get_global_id(0) * per_item;
    const uint last_bin = min(first_bin + per_item, n_bins);
    for (uint bin = first_bin; bin < last_bin; bin++) {
        const uint begin = bin ? ends[bin - 1] : 0u;
        const uint n = ends[bin] - begin;
        global float *restrict values = gathered + frame * n_binned + begin;
        uint kept = 0;
        for (uint i = 0; i < n; i++) {
            const float value = values_in[pixels[begin + i]];
            values[kept] = value;
            kept += isfinite(value);
        }
        // Sums are taken about a centre near the mean, so that float32 keeps its digits.
        float low = -INFINITY, high = INFINITY, centre = kept ? values[kept / 2] : 0.0f;
        float average = NAN, sigma = NAN;
        uint before = 0;
        for (int cycle = 0; cycle <= cycles; cycle++) {
            float sum = 0.0f, squares = 0.0f;
            uint count = 0;
            for (uint i = 0; i < kept; i++) {
                const int inside = values[i] >= low && values[i] <= high;
                const float d = inside ? values[i] - centre : 0.0f;
                sum += d;
                squares += d * d;
                count += inside;
            }
            if (count == 0 || count == before)
                break;
            before = count;
            const float shift = sum / count;
            average = centre + shift;
            sigma = poisson ? sqrt(max(average, 0.0f)) : sqrt(max(squares / count - shift * shift, 0.0f));
            centre = average;
            const float cut = max(cutoff, chauvenet((float)count));
            low = max(low, average - cut * sigma);
            high = min(high, average + cut * sigma);
        }
        mean[frame * n_bins + bin] = average;
        deviation[frame * n_bins + bin] = sigma;
    }
}
