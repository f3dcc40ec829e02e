<?php

declare(strict_types=1);

namespace Roster\Exception;

/** All available data is older than `maxAge` allows. */
final class TooStale extends RosterException
{
    public function __construct(public readonly int $ageMs, public readonly int $maxAgeMs, string $why = '')
    {
        parent::__construct("$ageMs ms old, allowed are $maxAgeMs ms" . ($why === '' ? '' : ": $why"));
    }
}
