<?php

declare(strict_types=1);

namespace Roster;

/** Where an instance is known from. */
final class Provenance
{
    /**
     * @param string $source its name, as `status` has it
     * @param ?string $path of the node that it was read from,
     * @param ?string $masterId or of the master
     * @param string $decoder what decoded it: `tunnel` is the protocol of masters
     * @param int $sinceRevision since which revision the source reports it unchanged
     */
    public function __construct(
        public readonly string $source,
        public readonly ?string $path,
        public readonly ?string $masterId,
        public readonly string $decoder,
        public readonly int $sinceRevision,
    ) {
    }
}
