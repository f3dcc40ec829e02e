<?php

declare(strict_types=1);

namespace Roster;

/** Whether an instance can be called. */
enum InstanceState: string
{
    case Up = 'UP';
    /** It was there before a restart of the sidecar, and is expected back. */
    case Returning = 'RETURNING';
    /** Its registration says that it takes no calls: it is disabled, is starting, or is out of service. */
    case Down = 'DOWN';
    /** A state of a newer sidecar's: it cannot be called. */
    case Unknown = 'UNKNOWN';
}
