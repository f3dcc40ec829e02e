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
    private readonly int $at;

    public function __construct(int $ms)
    {
        $this->at = hrtime(true) + $ms * 1_000_000;
    }

    /** How many microseconds are left, never below 0. */
    public function left(): int
    {
        return max(0, intdiv($this->at - hrtime(true), 1_000));
    }
}
