// Counts of any type to float. PIXEL is the type of the counts.

// counts:   of all frames, n_pixels each
// values:   the result
// ceiling:  counts from here on are no counts: the maximum of an integer type marks masked pixels
// dummy:    a value that means that there is none; NaN: no value does
// chunk:    pixels of one work-item
kernel void convert(global const PIXEL *restrict counts, global float *restrict values, const float ceiling,
                    const float dummy, const uint n_pixels, const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const float value = (float)counts[frame + i];
        values[frame + i] = value < ceiling && value != dummy ? value : NAN;
    }
}
