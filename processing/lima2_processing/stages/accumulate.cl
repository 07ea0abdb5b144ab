// Adds images to a sum. Built behind pixels.cl. COUNTS is defined where pixels are unsigned integers.
//
// Once a pixel had no value in one image, it has none in the sum: NaN, or NO_COUNT.

#define NO_COUNT 0xffffffffu
#define LARGEST 0xfffffffeu  // what a sum of counts saturates at

// image:     of all frames of the batch, n_pixels each
// start:     the first frame of this call
// taken:     bit i is set where frame start + i is added
// n_frames:  of this call, 64 at most
// sum:       (n_pixels,) is added to
// carry:     (n_pixels,) what rounding took from a sum of floats so far (Kahan 1965); not used for counts
// chunk:     pixels of one work-item
#ifdef COUNTS
kernel void accumulate(global const PIXEL *restrict image, const uint start, const ulong taken, const uint n_frames,
                       global uint *restrict sum, global float *restrict carry, const float ceiling,
                       const uint n_pixels, const uint chunk)
{
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint frame = 0; frame < n_frames; frame++) {
        if (!(taken >> frame & 1))
            continue;
        global const PIXEL *const added = image + (size_t)(start + frame) * n_pixels;
        for (uint i = first; i < last; i++) {
            const uint room = LARGEST - sum[i];  // wraps to NO_COUNT where the sum is NO_COUNT
            const uint count = added[i];
            const uint total = sum[i] + (count < room ? count : room);
            sum[i] = (float)count < ceiling && sum[i] != NO_COUNT ? total : NO_COUNT;
        }
    }
}
#else
kernel void accumulate(global const PIXEL *restrict image, const uint start, const ulong taken, const uint n_frames,
                       global float *restrict sum, global float *restrict carry, const float ceiling,
                       const uint n_pixels, const uint chunk)
{
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint frame = 0; frame < n_frames; frame++) {
        if (!(taken >> frame & 1))
            continue;
        global const PIXEL *const added = image + (size_t)(start + frame) * n_pixels;
        for (uint i = first; i < last; i++) {
            const float pixel = pixel_value(added[i], ceiling);
            const float value = pixel - pixel == 0.0f ? pixel - carry[i] : NAN;  // infinity: saturated, no value
            const float total = sum[i] + value;
            carry[i] = (total - sum[i]) - value;
            sum[i] = total;
        }
    }
}
#endif
