<?php

declare(strict_types=1);

namespace Roster;

/** What is known of the address of an instance that is held. */
enum Probe: string
{
    /** Nothing: it was not tried yet, or cannot be. */
    case Untried = 'UNTRIED';
    /** It takes connections. */
    case Answering = 'ANSWERING';
    /** It neither takes nor refuses them. */
    case Silent = 'SILENT';
    /** What only a newer sidecar knows. */
    case Unknown = 'UNKNOWN';
}
