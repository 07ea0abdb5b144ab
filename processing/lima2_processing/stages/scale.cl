// Every pixel times a factor of its own. Built behind pixels.cl.

// image:    of all frames, n_pixels each
// factor:   of each pixel
// scaled:   the result, n_pixels a frame; NaN where there is no value
// ceiling:  see pixels.cl
// chunk:    pixels of one work-item
kernel void scale(global const PIXEL *restrict image, global const float *restrict factor,
                  global float *restrict scaled, const float ceiling, const uint n_pixels, const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++)
        scaled[frame + i] = pixel_value(image[frame + i], ceiling) * factor[i];
}
