<?php

declare(strict_types=1);

namespace Roster\Exception;

/** No instance of the service matches the request, or none can be called: the message says which. */
final class NoInstance extends RosterException
{
    public function __construct(public readonly string $service, string $message)
    {
        parent::__construct($message);
    }
}
