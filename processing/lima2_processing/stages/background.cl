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
    float2 near = (float2)(mean[low], deviation[low]);
    float2 far = (float2)(mean[high], deviation[high]);
    if (isnan(far.x))
        far = near;  // a bin without values has no say
    if (isnan(near.x))
        near = far;
    const float2 level = near + (position - (float)low) * (far - near);
    return (float2)(level.x, sqrt(level.y * level.y + noise * noise));
}
