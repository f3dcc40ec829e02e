<?php

declare(strict_types=1);

namespace Roster;

/** A coordination node. */
final class Node
{
    /** @param string $data its bytes */
    public function __construct(
        public readonly string $path,
        public readonly string $data,
        public readonly Stat $stat,
        public readonly Freshness $freshness,
    ) {
    }

    /**
     * The data as JSON, objects as arrays.
     *
     * @throws \JsonException if it is none
     */
    public function json(): mixed
    {
        return json_decode($this->data, true, flags: JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }
}
