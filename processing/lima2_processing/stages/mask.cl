// Masked pixels become NaN.

// image:   of all frames, n_pixels each; changed in place
// masked:  not 0 where a pixel is masked
// chunk:   pixels of one work-item
kernel void mask(global float *restrict image, global const uchar *restrict masked, const uint n_pixels,
                 const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++)
        image[frame + i] = masked[i] ? NAN : image[frame + i];
}
