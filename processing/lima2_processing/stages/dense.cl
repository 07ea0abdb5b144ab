// Images as they are saved: scaled, in the type that was asked for. Built behind pixels.cl.
//
// RESULT is the type. FLOAT or HALF is defined where it is one, LONG where floats don't have all of its integers.

#define HALF_LARGEST 65504.0f
#define TO_NEAREST 12582912.0f  // 1.5 * 2^23: what it is added to and taken from loses its fraction
// PoCL vectorises neither rint(), fmin() nor convert_*_sat(): plain comparisons are several times faster.

// image:      of all frames, n_pixels each
// masked:     not 0 where a pixel has no value
// result:     n_pixels a frame; a HALF is kept in 16 bits
// factor, offset:  value * factor + offset is saved
// low, high:  integers that values may become
// marker:     the integer for pixels without a value
// chunk:      pixels of one work-item
kernel void dense(global const PIXEL *restrict image, global const uchar *restrict masked,
                  global RESULT *restrict result, const float factor, const float offset, const RESULT low,
                  const RESULT high, const RESULT marker, const float ceiling, const uint n_pixels, const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const float whole = masked[i] ? NAN : pixel_value(image[frame + i], ceiling);
        const float value = whole * factor + offset;
#if defined(FLOAT)
        result[frame + i] = value;
#elif defined(HALF)
        // Infinity stays what it is: the detector's own saturation.
        const float fitting = isinf(whole) ? value : fmin(fmax(value, -HALF_LARGEST), HALF_LARGEST);
        vstore_half_rte(isnan(value) ? NAN : fitting, frame + i, (global half *)result);
#elif defined(LONG)
        result[frame + i] = isnan(value) ? marker : clamp(convert_int_sat_rte(value), low, high);
#else
        const float fitting = value < (float)low ? (float)low : value > (float)high ? (float)high : value;
        const int nearest = (int)(fitting + TO_NEAREST - TO_NEAREST);
        result[frame + i] = (RESULT)(value == value ? nearest : (int)marker);
#endif
    }
}
