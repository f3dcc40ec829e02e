<?php

declare(strict_types=1);

namespace Roster\Exception;

/** The source behind the answer has not yet been read as a whole: nothing is known, not even an absence. */
final class NotReady extends RosterException
{
    public function __construct(public readonly string $source, string $message)
    {
        parent::__construct("not ready: $message");
    }
}
