// Modules to image.

// modules:    values of all frames, n_raw each
// source:     which of them an image pixel takes; negative: a gap
// share:      the part of the charge that it gets: less than 1 for the halves of double-size pixels
// image:      the result, n_pixels a frame; NaN in gaps
// chunk:      pixels of one work-item
kernel void assemble(global const float *restrict modules, global const int *restrict source,
                     global const float *restrict share, global float *restrict image, const uint n_raw,
                     const uint n_pixels, const uint chunk)
{
    const size_t from = (size_t)get_global_id(1) * n_raw;
    const size_t to = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const int at = source[i];
        image[to + i] = at < 0 ? NAN : modules[from + max(at, 0)] * share[i];
    }
}
