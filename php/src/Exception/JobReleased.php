<?php

declare(strict_types=1);

namespace Roster\Exception;

/** Throw this while a job is performed to give it back: that is no failure, and it is performed again later. */
final class JobReleased extends RosterException
{
    /** @param int $delayMs for how long it is not performed */
    public function __construct(int $delayMs = 0)
    {
        parent::__construct("the job is given back, to be performed in $delayMs ms", $delayMs);
    }
}
