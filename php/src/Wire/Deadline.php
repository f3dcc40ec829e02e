<?php

declare(strict_types=1);

namespace Roster\Wire;

/**
 * When an answer must be there.
 *
 * @internal
 */
final class Deadline
{
    private int $at;

    public function __construct(private readonly int $ms)
    {
        $this->renew();
    }

    /** Gives what comes next as much time as this began with. */
    public function renew(): void
    {
        $this->at = hrtime(true) + $this->ms * 1_000_000;
    }

    /** How many microseconds are left, never below 0. */
    public function left(): int
    {
        return max(0, intdiv($this->at - hrtime(true), 1_000));
    }
}
