<?php

declare(strict_types=1);

namespace Roster;

/** How an answer came. */
enum Way: string
{
    /** Read from the shared file, without a call. */
    case Shared = 'shared';
    /** Told by the sidecar, over its Unix socket. */
    case Unix = 'unix';
    /** Told by the sidecar, over loopback TCP. */
    case Tcp = 'tcp';
}
