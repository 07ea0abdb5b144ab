// The background at a pixel, shared by the stages that compare pixels with it.

// Background and its uncertainty at a place between bins, linearly interpolated.
//
// position:  on the scale of bins, 0 at the centre of bin 0; NaN where the pixel belongs to no bin
// noise:     of the detector, added in quadrature
// Returns (background, uncertainty); NaN where there is none.
float2 background_at(const float position, global const float *mean, global const float *deviation, const float noise,
                     const uint n_bins)
{
    if (isnan(position))
        return (float2)(NAN, NAN);
    const uint low = min((uint)position, n_bins - 1);
    const uint high = min(low + 1, n_bins - 1);
    const float weight = position - (float)low;
    const float level = weight > 0.0f ? mix(mean[low], mean[high], weight) : mean[low];
    const float sigma = weight > 0.0f ? mix(deviation[low], deviation[high], weight) : deviation[low];
    return (float2)(level, sqrt(sigma * sigma + noise * noise));
}
