<?php

declare(strict_types=1);

namespace Roster\Exception;

/** There was no answer in time. Whether the call was executed is unknown. */
final class CallTimedOut extends RosterException
{
    public function __construct(string $message, public readonly int $timeoutMs, public readonly ?string $master = null)
    {
        parent::__construct($message);
    }
}
