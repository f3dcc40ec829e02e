<?php

declare(strict_types=1);

namespace Roster\Exception;

use Roster\Step;

/** No way led to an answer. */
final class Unavailable extends RosterException
{
    /** @param list<Step> $steps what was tried, in order */
    public function __construct(public readonly array $steps)
    {
        $why = $steps === [] ? 'no way to it is configured' : implode('; ', $steps);
        parent::__construct("Roster cannot be reached: $why");
    }
}
