<?php

declare(strict_types=1);

namespace Roster;

/** How one is chosen among those that will do. One of the weight 0 never is. */
enum Balance: int
{
    /** Of two random ones, the one with fewer calls under way, which are counted of masters alone. */
    case LeastOutstanding = 1;
    /** One after the other, whatever they weigh. */
    case RoundRobin = 2;
    /** Each as often as its weight among theirs. */
    case Random = 3;
    /** The same one for the same key, as long as it is there. Of all keys, each has as many as its weight among theirs. */
    case Key = 4;
    /** Of two random ones, the one whose metadata report less `load`. */
    case LeastLoad = 5;
}
