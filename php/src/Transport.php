<?php

declare(strict_types=1);

namespace Roster;

/** How an answer was obtained. */
enum Transport: string
{
    /** Read from the shared file, without a call. */
    case Shared = 'shared';
    /** Answered by the sidecar, over its Unix socket. */
    case Unix = 'unix';
    /** Answered by the sidecar, over loopback TCP. */
    case Tcp = 'tcp';
}
