<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Freshness;

/**
 * What a reader found, and how far it can be trusted.
 *
 * @internal
 */
final class Answer
{
    public function __construct(public readonly mixed $value, public readonly Freshness $freshness)
    {
    }
}
