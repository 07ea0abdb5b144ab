// Bragg peaks among the picked pixels. Built behind pixels.cl and background.cl.

// Tests each picked pixel: it is a peak where it stands above the background by the cutoff, no pixel of its patch does
// so higher, and enough pixels of the patch stand above the cutoff too. A patch that reaches beyond the image is none.
//
// image:       of all frames, rows * cols each
// position:    of each pixel on the scale of bins; NaN: belongs to none
// index:       positions of the picked pixels, frame after frame
// ends:        where each frame's picked pixels end
// half_patch:  the patch reaches so many pixels to each side
// connected:   pixels of the patch above the cutoff that make a peak, its centre included
// peaks:       the result, N_COLUMNS numbers a picked pixel: row (NaN where there is no peak), col, intensity, its
//              uncertainty, signal to noise
kernel void peaks(global const PIXEL *restrict image, global const float *restrict position,
                  global const float *restrict mean, global const float *restrict deviation,
                  global const uint *restrict index, global const uint *restrict ends, global float *restrict peaks,
                  const float cutoff, const float noise, const float ceiling, const int half_patch,
                  const int connected, const int rows, const int cols, const uint n_bins)
{
    const size_t frame = get_global_id(1);
    global const PIXEL *values = image + frame * (size_t)rows * cols;
    global const float *means = mean + frame * n_bins;
    global const float *deviations = deviation + frame * n_bins;
    const uint first = frame ? ends[frame - 1] : 0u;
    for (uint at = first + get_global_id(0); at < ends[frame]; at += get_global_size(0)) {
        global float *peak = peaks + at * N_COLUMNS;
        peak[0] = NAN;
        const int centre = (int)index[at];
        const float2 level = background_at(position[centre], means, deviations, noise, n_bins);
        const float height = pixel_value(values[centre], ceiling) - level.x;
        if (!isfinite(height) || !(height > cutoff * level.y))
            continue;
        const int row = centre / cols, col = centre % cols;
        if (row < half_patch || row >= rows - half_patch || col < half_patch || col >= cols - half_patch)
            continue;
        float sum = 0.0f, variance = 0.0f, row_moment = 0.0f, col_moment = 0.0f;
        int above = 0, highest = 1;
        for (int y = -half_patch; y <= half_patch && highest; y++) {
            for (int x = -half_patch; x <= half_patch; x++) {
                const int pixel = centre + y * cols + x;
                const float2 around = background_at(position[pixel], means, deviations, noise, n_bins);
                const float signal = pixel_value(values[pixel], ceiling) - around.x;
                if (!isfinite(signal) || signal <= 0.0f)
                    continue;
                // Of equal pixels the first is the peak.
                if (signal > height || (signal == height && pixel < centre)) {
                    highest = 0;
                    break;
                }
                above += signal > cutoff * around.y;
                sum += signal;
                variance += around.y * around.y;
                row_moment += signal * y;
                col_moment += signal * x;
            }
        }
        if (!highest || above < connected)
            continue;
        peak[0] = row + row_moment / sum;
        peak[1] = col + col_moment / sum;
        peak[2] = sum;
        peak[3] = sqrt(variance);
        peak[4] = sum / peak[3];
    }
}
