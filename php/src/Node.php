<?php

declare(strict_types=1);

namespace Roster;

/** A coordination node. */
final class Node implements \JsonSerializable
{
    /** Decoded on first use: it is rarely needed, and reading the shared file takes less time than decoding it. */
    public readonly Stat $stat;
    private readonly string $statJson;

    /**
     * @param string $data its bytes
     * @param Stat|string $stat or its JSON
     */
    public function __construct(
        public readonly string $path,
        public readonly string $data,
        Stat|string $stat,
        public readonly Freshness $freshness,
    ) {
        if (is_string($stat)) {
            $this->statJson = $stat;
            unset($this->stat);
        } else {
            $this->stat = $stat;
        }
    }

    /**
     * The data decoded as JSON, objects as arrays.
     *
     * @throws \JsonException if it is not JSON
     */
    public function json(): mixed
    {
        return json_decode($this->data, true, flags: JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }

    /** @internal creates a property on first use */
    public function __get(string $name): Stat
    {
        if ($name !== 'stat') {
            throw new \Error("a node has no $name");
        }
        return $this->stat = Stat::parse($this->statJson);
    }

    public function __isset(string $name): bool
    {
        return $name === 'stat';
    }

    public function __serialize(): array
    {
        return $this->jsonSerialize();
    }

    /** The same whichever transport the node came by; data that is not UTF-8 cannot be written as JSON. */
    public function jsonSerialize(): array
    {
        return ['path' => $this->path, 'data' => $this->data, 'stat' => $this->stat, 'freshness' => $this->freshness];
    }
}
