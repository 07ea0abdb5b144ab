// The cuts of a sigma clip, shared by the two ways to do it.

// The cut for n values that leaves half a value to chance (Chauvenet's criterion, as pyFAI has it).
float chauvenet(const float n)
{
    return sqrt(2.0f * log(max(n, 3.0f) * 0.3989422804f));  // 1 / sqrt(2 pi)
}
