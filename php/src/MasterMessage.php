<?php

declare(strict_types=1);

namespace Roster;

/** An application-defined command from a master; or a note that some were missed, or could not be read. */
final class MasterMessage
{
    /**
     * @param string $master the id of the master; empty: some messages before the next were missed
     * @param array<mixed> $message the whole command, with the key `cmd`; empty if some were missed
     * @param int $receivedAt ms since 1970
     * @param ?int $missed how many were missed; null: unknown, since the sidecar was restarted
     */
    public function __construct(
        public readonly string $master,
        public readonly array $message,
        public readonly int $receivedAt,
        public readonly ?int $missed = 0,
    ) {
    }
}
