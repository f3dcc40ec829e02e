<?php

declare(strict_types=1);

namespace Roster;

/** How to choose among candidates. One with weight 0 is never chosen. */
enum Balance: int
{
    /** Of two random ones, the one with fewer calls under way, which are only counted for masters. */
    case LeastOutstanding = 1;
    /** One after the other, regardless of weight. */
    case RoundRobin = 2;
    /** Each in proportion to its weight. */
    case Random = 3;
    /** The same one for the same key, as long as it exists. Each gets its share of the keys by weight. */
    case Key = 4;
    /** Of two random ones, the one whose metadata report less `load`. */
    case LeastLoad = 5;
}
