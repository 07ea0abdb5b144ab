// What a pixel says, for images of any type. PIXEL is the type; INTEGER is defined where it is one.

// ceiling:  integer pixels from here on hold no count, as the maximum of an integer type marks masked pixels
// Returns the value; not finite where there is none that could be used.
float pixel_value(const PIXEL pixel, const float ceiling)
{
#ifdef INTEGER
    return (float)pixel < ceiling ? (float)pixel : NAN;
#else
    return pixel;
#endif
}
