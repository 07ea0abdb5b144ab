// Raw words of a Jungfrau to photons.
//
// A word holds the gain stage in bits 15-14 (0: G0, 1: G1, 3: G2; 2 is no stage) and the ADC value in bits 13-0.

#define SATURATED 0xC000u  // G2 with nothing left
#define ERROR_LOW 0x4000u
#define ERROR_HIGH 0xFFFFu

// raw:       words of all frames, n_pixels each
// pedestal:  ADC value without light, three planes of n_pixels: G0, G1, G2
// factor:    photons per ADC unit, three planes likewise; NaN marks a bad pixel
// photons:   the result, n_pixels a frame; NaN: bad or broken, infinity: saturated
// chunk:     pixels of one work-item
kernel void correct(global const ushort *restrict raw, global const float *restrict pedestal,
                    global const float *restrict factor, global float *restrict photons, const uint n_pixels,
                    const uint chunk)
{
    const size_t frame = (size_t)get_global_id(1) * n_pixels;
    const uint first = get_global_id(0) * chunk;
    const uint last = min(first + chunk, n_pixels);
    for (uint i = first; i < last; i++) {
        const uint word = raw[frame + i];
        const uint stage = word >> 14;
        const size_t plane = (size_t)min(stage, 2u) * n_pixels + i;
        float value = ((float)(word & 0x3FFFu) - pedestal[plane]) * factor[plane];
        if (word == SATURATED && !isnan(factor[plane]))
            value = INFINITY;
        if (stage == 2u || word == ERROR_LOW || word == ERROR_HIGH)
            value = NAN;
        photons[frame + i] = value;
    }
}
