<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

use Roster\Client;
use Roster\Timeouts;

/** Clients that wait for a busy machine. Those of pages give up after a fraction of a second. */
final class Patient
{
    public static function local(
        ?string $socket = null,
        ?string $tcp = null,
        ?string $shared = null,
        mixed ...$more,
    ): Client {
        return Client::local($socket, $tcp, $shared, ...$more + ['timeouts' => self::timeouts()]);
    }

    public static function timeouts(): Timeouts
    {
        return new Timeouts(connectMs: 10_000, readMs: 10_000, totalMs: 20_000);
    }
}
