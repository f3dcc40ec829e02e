<?php

declare(strict_types=1);

namespace Roster\Wire;

/**
 * The deadline of an answer.
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

    /** Starts over with the original time. */
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
