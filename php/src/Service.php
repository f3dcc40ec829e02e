<?php

declare(strict_types=1);

namespace Roster;

/** A service of one master. */
final class Service
{
    /**
     * @param string $version 0.0.0 if not given
     * @param array<string, mixed> $metadata
     */
    public function __construct(
        public readonly string $name,
        public readonly string $version,
        public readonly array $metadata,
    ) {
    }
}
