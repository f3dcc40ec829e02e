<?php

declare(strict_types=1);

namespace Roster\Exception;

use Roster\Attempt;

/** No transport led to an answer. */
final class Unavailable extends RosterException
{
    /** @param list<Attempt> $attempts what was tried, in order */
    public function __construct(public readonly array $attempts)
    {
        $why = $attempts === [] ? 'no transport to it is configured' : implode('; ', $attempts);
        parent::__construct("Roster cannot be reached: $why");
    }
}
