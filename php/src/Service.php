<?php

declare(strict_types=1);

namespace Roster;

/** A service, as one master offers it. */
final class Service
{
    /**
     * @param string $version 0.0.0 where none is given
     * @param array<string, mixed> $metadata
     */
    public function __construct(
        public readonly string $name,
        public readonly string $version,
        public readonly array $metadata,
    ) {
    }
}
