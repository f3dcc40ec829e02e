<?php

declare(strict_types=1);

namespace Roster;

/** How a master is chosen among those that offer a service. */
enum Balance: int
{
    /** Of two random ones, the one with fewer calls under way. */
    case LeastOutstanding = 1;
    case RoundRobin = 2;
    case Random = 3;
    /** The same one for the same key, as long as it is there. */
    case Key = 4;
}
