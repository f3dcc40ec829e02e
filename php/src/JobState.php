<?php

declare(strict_types=1);

namespace Roster;

/** Where a job is. */
enum JobState: int
{
    case Waiting = 1;
    /** It is not performed before its time. */
    case Delayed = 2;
    /** Somebody has it. */
    case Running = 3;
    /** It is performed no more, unless it is retried by hand. */
    case Dead = 4;
    /** It is kept with its result for a time. */
    case Done = 5;
}
