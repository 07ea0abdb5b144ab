// Images as they are saved: scaled, in the type that was asked for. Built behind pixels.cl.
//
// RESULT is the type. FLOAT or HALF is defined where it is one, LONG where floats don't have all of its integers.

#define HALF_LARGEST 65504.0f
#define WHOLE 8388608.0f  // 2^23: floats from here on have no fraction
#define TO_NEAREST 12582912.0f  // 1.5 * 2^23: up to 2^22, what it is added to and taken from loses its fraction
#define INT_LARGEST 2147483520.0f  // the largest float below 2^31
// PoCL vectorises neither rint(), fmin(), convert_*_sat() nor vstore_half(): plain operations are several times faster.

// Rounds to the nearest integer, halves to even: what 2^23 is added to and taken from loses its fraction.
float nearest(const float value)
{
    const float shift = as_float((as_uint(value) & 0x80000000u) | as_uint(WHOLE));  // of the value's sign
    const float rounded = (value + shift) - shift;
    return value > -WHOLE && value < WHOLE ? rounded : value;
}

// The bits of a half, nearest to a float up to HALF_LARGEST, halves of its last digit to even.
ushort half_of(const float value)
{
    const uint bits = as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    // Exponents are 15 instead of 127 above the smallest, and 13 digits less remain. Below 2^-14 digits are lost too:
    // 0.5 added, the last digit of the float is the last of such a half.
    const uint normal = (size + 0xC8000FFFu + (size >> 13 & 1u)) >> 13;
    const uint small = as_uint(as_float(size) + 0.5f) - as_uint(0.5f);
    const uint special = size > 0x7F800000u ? 0x7E00u : 0x7C00u;  // NaN, infinity
    const uint magnitude = size < 0x38800000u ? small : normal;
    return (ushort)(sign | (size < 0x7F800000u ? magnitude : special));
}

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
        const float most = value < -HALF_LARGEST ? -HALF_LARGEST : value > HALF_LARGEST ? HALF_LARGEST : value;
        const int saturated = (as_uint(whole) & 0x7FFFFFFFu) == 0x7F800000u;
        result[frame + i] = half_of(saturated ? value : most);
#elif defined(LONG)
        const float fitting = value < -INT_LARGEST ? -INT_LARGEST : value > INT_LARGEST ? INT_LARGEST : value;
        const int inside = (int)nearest(fitting);
        const int most = value < -INT_LARGEST ? low : value > INT_LARGEST ? high : inside;
        result[frame + i] = value == value ? most : marker;
#else
        const float fitting = value < (float)low ? (float)low : value > (float)high ? (float)high : value;
        const int inside = (int)(fitting + TO_NEAREST - TO_NEAREST);
        result[frame + i] = (RESULT)(value == value ? inside : (int)marker);
#endif
    }
}
