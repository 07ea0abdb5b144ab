// Sigma-clipped mean and standard deviation of each radial bin, from a table of how often each value occurs in it.
// Built behind clip.cl. For images of unsigned integers; PIXEL is their type.
//
// The table has LEVELS columns, for the values 0 to LEVELS - 2 and for all that are higher. Of these only the sums are
// kept: enough for the first cut, which as a rule takes them all away. A bin where it doesn't is left to the other way.

// SHARED is defined where all work-items of a frame count into one table, which is 0 before: many work-items, as a GPU has
// them, can't have a table each. Else each work-item has its own.

#define HIGHEST (LEVELS - 1)

#ifdef SHARED
#define COUNT(counter) atomic_inc(&(counter))
#define ADD(sum, term) atomic_add_float((volatile global uint *)&(sum), term)

void atomic_add_float(volatile global uint *sum, const float term)
{
    uint before = *sum, seen;
    while ((seen = atomic_cmpxchg(sum, before, as_uint(as_float(before) + term))) != before)
        before = seen;
}
#else
#define COUNT(counter) (counter)++
#define ADD(sum, term) (sum) += (term)
#endif

// Counts the values of a part of a frame.
//
// image:   of all frames, n_pixels each
// bins:    of each pixel; n_bins: belongs to none
// table:   the result: n_parts tables a frame, each of n_bins + 1 rows of LEVELS counts
// excess:  sum and sum of squares of the values from HIGHEST on, a pair for each bin, laid out as the tables
// ceiling: values from here on are no counts
// chunk:   pixels of one part
kernel void count_values(global const PIXEL *restrict image, global const ushort *restrict bins,
                         global uint *restrict table, global float2 *restrict excess, const uint ceiling,
                         const uint n_pixels, const uint n_bins, const uint chunk)
{
#ifdef SHARED
    const size_t part = get_global_id(1);
#else
    const size_t part = get_global_id(1) * get_global_size(0) + get_global_id(0);
#endif
    global const PIXEL *values = image + get_global_id(1) * (size_t)n_pixels;
    global uint *restrict counts = table + part * (n_bins + 1) * LEVELS;
    global float2 *restrict sums = excess + part * (n_bins + 1);
#ifndef SHARED
    for (uint i = 0; i < (n_bins + 1) * LEVELS; i++)
        counts[i] = 0;
    for (uint i = 0; i <= n_bins; i++)
        sums[i] = (float2)(0.0f);
#endif
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const uint value = values[i];
        const uint bin = bins[i];
        if (value >= ceiling)
            continue;
        if (value < HIGHEST) {
            COUNT(counts[bin * LEVELS + value]);
        } else {
            COUNT(counts[bin * LEVELS + HIGHEST]);
            global float *pair = (global float *)&sums[bin];
            ADD(pair[0], (float)value);
            ADD(pair[1], (float)value * (float)value);
        }
    }
}

// Clips on the tables.
//
// table, excess:    of n_parts parts of each frame, see above
// mean, deviation:  the result, n_bins a frame; NaN for a bin without values
// pending:          the result: not 0 for a bin whose higher values must be looked at one by one
// cutoff, cycles, poisson:  as in radial_background.cl
// per_item:         bins of one work-item
kernel void clip_table(global const uint *restrict table, global const float2 *restrict excess,
                       global float *restrict mean, global float *restrict deviation, global uchar *restrict pending,
                       const float cutoff, const int cycles, const int poisson, const uint n_parts, const uint n_bins,
                       const uint per_item)
{
    const size_t frame = get_global_id(1);
    const uint first_bin = get_global_id(0) * per_item;
    const uint last_bin = min(first_bin + per_item, n_bins);
    for (uint bin = first_bin; bin < last_bin; bin++) {
        uint counts[LEVELS];
        for (int value = 0; value < LEVELS; value++)
            counts[value] = 0;
        float2 above = 0.0f;
        for (uint part = 0; part < n_parts; part++) {
            const size_t row = (frame * n_parts + part) * (n_bins + 1) + bin;
            for (int value = 0; value < LEVELS; value++)
                counts[value] += table[row * LEVELS + value];
            above += excess[row];
        }

        float low = -INFINITY, high = INFINITY, average = NAN, sigma = NAN;
        uint before = 0;
        uchar unsure = 0;
        for (int cycle = 0; cycle <= cycles; cycle++) {
            const int lowest = (int)clamp(ceil(low), 0.0f, (float)HIGHEST);
            const int highest = (int)clamp(floor(high), -1.0f, (float)(HIGHEST - 1));
            const bool all = cycle == 0;
            if (!all && counts[HIGHEST] && high >= HIGHEST) {
                unsure = 1;
                break;
            }
            uint count = all ? counts[HIGHEST] : 0;
            float sum = 0.0f;
            for (int value = lowest; value <= highest; value++) {
                count += counts[value];
                sum += (float)counts[value] * value;
            }
            if (count == 0 || count == before)
                break;
            before = count;
            average = (sum + (all ? above.x : 0.0f)) / count;
            float variances = 0.0f;
            for (int value = lowest; value <= highest; value++) {
                const float d = value - average;
                variances += (float)counts[value] * (poisson ? fmax((float)value, 1.0f) : d * d);
            }
            if (all && counts[HIGHEST])
                variances += poisson ? above.x : above.y + average * (counts[HIGHEST] * average - 2.0f * above.x);
            sigma = sqrt(fmax(variances, 0.0f) / count);
            const float cut = fmax(cutoff, chauvenet((float)count));
            low = fmax(low, average - cut * sigma);
            high = fmin(high, average + cut * sigma);
        }
        mean[frame * n_bins + bin] = average;
        deviation[frame * n_bins + bin] = sigma;
        pending[frame * n_bins + bin] = unsure;
    }
}
