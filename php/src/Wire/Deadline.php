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
    /** Some 30 years: what is longer does not fit into a clock's nanoseconds. */
    private const MAX_MS = 1 << 40;

    private readonly int $ms;
    private int $at;

    /** @param int|float $ms a float, where a sum is beyond an integer */
    public function __construct(int|float $ms)
    {
        $this->ms = (int) min($ms, self::MAX_MS);
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
