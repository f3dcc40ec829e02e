<?php

declare(strict_types=1);

namespace Roster;

/** Whether an instance can be called. */
enum InstanceState: string
{
    case Up = 'UP';
    /** It was there before a restart of the sidecar, and is expected back. */
    case Returning = 'RETURNING';
    /** Its registration says that it takes no calls: it is disabled, starting, or out of service. */
    case Down = 'DOWN';
    /** A state that only a newer sidecar knows: it cannot be called. */
    case Unknown = 'UNKNOWN';
}
