// Sigma-clipped mean and standard deviation of each radial bin, from its values, put together once.
// Built behind pixels.cl and clip.cl.

#define LANES 8       // more, and the PoCL of the wheel miscompiles comparisons
#define BLOCK 256     // vectors that are summed before they join the total, so that float32 keeps its digits
#define MANY 8        // more than one in so many bins are many
#define FAR 4.0f      // a centre so many variances away from the mean gives no good variance

float lanes_sum(const float8 a)
{
    const float4 b = a.lo + a.hi;
    const float2 c = b.lo + b.hi;
    return c.x + c.y;
}

int lanes_count(const int8 a)
{
    const int4 b = a.lo + a.hi;
    const int2 c = b.lo + b.hi;
    return c.x + c.y;
}

// Moments about `centre` of the values within [low, high].
//
// values:   n_vectors times LANES, padded with NaN
// poisson:  not 0: a value's variance is itself, at least 1, instead of its squared difference from the centre
// sums:     the result: sum of the differences from the centre, and of the variances
// Returns how many values lie within.
uint moments(global const float *values, const uint n_vectors, const float low, const float high, const float centre,
             const int poisson, float2 *sums)
{
    float sum = 0.0f, variances = 0.0f;
    uint count = 0;
    for (uint block = 0; block < n_vectors; block += BLOCK) {
        float8 block_sum = 0.0f, block_variances = 0.0f;
        int8 block_count = 0;
        const uint end = min(block + BLOCK, n_vectors);
        for (uint i = block; i < end; i++) {
            const float8 value = vload8(i, values);
            const int8 inside = (value >= low) & (value <= high);  // -1 where true
            const float8 d = select((float8)0.0f, value - centre, inside);
            block_sum += d;
            block_variances += poisson ? select((float8)0.0f, max(value, (float8)1.0f), inside) : d * d;
            block_count -= inside;
        }
        sum += lanes_sum(block_sum);
        variances += lanes_sum(block_variances);
        count += lanes_count(block_count);
    }
    *sums = (float2)(sum, variances);
    return count;
}

// Tells whether so many bins of a frame are still to be done that reading the whole image is best.
int are_many(global const uchar *pending, const uint n_bins)
{
    uint count = 0;
    for (uint bin = 0; bin < n_bins; bin++)
        count += pending[bin] != 0;
    return count > n_bins / MANY;
}

// Puts the values of each bin next to each other, reading the image from its first pixel to its last.
//
// image:     of all frames, n_pixels each; values that are not finite are not used
// places:    where each pixel's value goes; `room` for pixels of no bin
// sorted:    the result, `room` + 1 values a frame
// pending:   0 for a bin whose result is there already, n_bins a frame; where few are left, nothing is done
// ceiling:   see pixels.cl
// chunk:     pixels of one work-item
kernel void sort_values(global const PIXEL *restrict image, global const uint *restrict places,
                        global float *restrict sorted, global const uchar *restrict pending, const float ceiling,
                        const uint n_pixels, const uint n_bins, const uint room, const uint chunk)
{
    const size_t frame = get_global_id(1);
    if (!are_many(pending + frame * n_bins, n_bins))
        return;
    global const PIXEL *pixels = image + frame * n_pixels;
    global float *values = sorted + frame * (room + 1);
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const float value = pixel_value(pixels[i], ceiling);
        values[places[i]] = isfinite(value) ? value : NAN;
    }
}

// The same where few bins are left, reading their pixels alone.
//
// pixels:    positions of the pixels of all bins, bin after bin
// ends:      where in `pixels` each bin ends
// starts:    where each bin's values begin, a multiple of LANES
// per_item:  bins of one work-item
kernel void gather_values(global const PIXEL *restrict image, global const uint *restrict pixels,
                          global const uint *restrict ends, global const uint *restrict starts,
                          global float *restrict sorted, global const uchar *restrict pending, const float ceiling,
                          const uint n_pixels, const uint n_bins, const uint room, const uint per_item)
{
    const size_t frame = get_global_id(1);
    if (are_many(pending + frame * n_bins, n_bins))
        return;
    const uint first_bin = get_global_id(0) * per_item;
    const uint last_bin = min(first_bin + per_item, n_bins);
    for (uint bin = first_bin; bin < last_bin; bin++) {
        if (!pending[frame * n_bins + bin])
            continue;
        global float *values = sorted + frame * (room + 1) + starts[bin];
        const uint begin = bin ? ends[bin - 1] : 0;
        for (uint i = begin; i < ends[bin]; i++) {
            const float value = pixel_value(image[frame * n_pixels + pixels[i]], ceiling);
            values[i - begin] = isfinite(value) ? value : NAN;
        }
    }
}

// Clips each bin's values.
//
// sorted:    of all frames, see above; NaN between bins
// starts:    where each bin's values begin, a multiple of LANES
// sizes:     how many pixels each bin has
// mean, deviation:  the result, n_bins a frame; NaN for a bin without values
// pending:   0 for a bin whose result is there already, n_bins a frame
// cutoff:    values further from the mean than so many deviations are clipped, at least Chauvenet's cut; 0: only that
// cycles:    times to clip at most
// poisson:   not 0: the deviation comes from the values' counting statistics, not from their spread
// per_item:  bins of one work-item
kernel void clip_values(global const float *restrict sorted, global const uint *restrict starts,
                        global const uint *restrict sizes, global float *restrict mean,
                        global float *restrict deviation, global const uchar *restrict pending, const float cutoff,
                        const int cycles, const int poisson, const uint n_bins, const uint room, const uint per_item)
{
    const size_t frame = get_global_id(1);
    const uint first_bin = get_global_id(0) * per_item;
    const uint last_bin = min(first_bin + per_item, n_bins);
    for (uint bin = first_bin; bin < last_bin; bin++) {
        if (!pending[frame * n_bins + bin])
            continue;
        global const float *values = sorted + frame * (room + 1) + starts[bin];
        const uint n_vectors = (sizes[bin] + LANES - 1) / LANES;
        float low = -INFINITY, high = INFINITY, centre = sizes[bin] ? values[sizes[bin] / 2] : 0.0f;
        if (isnan(centre))
            centre = 0.0f;
        float average = NAN, sigma = NAN;
        uint before = 0;
        for (int cycle = 0; cycle <= cycles; cycle++) {
            float2 sums;
            float shift = 0.0f, variance = 0.0f;
            uint count = 0;
            // An outlier in the middle of the values, or one clipped just now, leaves the centre far off: once more.
            for (int attempt = 0; attempt < 2; attempt++) {
                count = moments(values, n_vectors, low, high, centre, poisson, &sums);
                if (count == 0)
                    break;
                shift = sums.x / count;
                variance = max(sums.y / count - (poisson ? 0.0f : shift * shift), 0.0f);
                if (shift * shift <= FAR * variance)
                    break;
                centre += shift;
            }
            if (count == 0 || count == before)
                break;
            before = count;
            average = centre + (shift * shift <= FAR * variance ? shift : 0.0f);
            sigma = sqrt(variance);
            centre = average;
            const float cut = max(cutoff, chauvenet((float)count));
            low = max(low, average - cut * sigma);
            high = min(high, average + cut * sigma);
        }
        mean[frame * n_bins + bin] = average;
        deviation[frame * n_bins + bin] = sigma;
    }
}
