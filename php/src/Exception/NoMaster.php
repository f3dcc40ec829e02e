<?php

declare(strict_types=1);

namespace Roster\Exception;

/** There is no master for the call: the service is unknown, or no connected master offers it. Nothing was executed. */
final class NoMaster extends RosterException
{
    public function __construct(public readonly string $service, string $message)
    {
        parent::__construct($message);
    }
}
