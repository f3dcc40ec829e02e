<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\InvalidRequest;
use Roster\Exception\TransportFailed;
use Roster\Freshness;
use Roster\Node;
use Roster\Read\Answer;

/**
 * Some of the requested paths: as many as fit into a request, and the revisions at which the answers hold.
 *
 * @internal
 */
final class Batch
{
    /** The default limit of a request (`max_request`), minus room for a header. */
    private const MAX_BYTES = 48 << 10;
    private const MAX_PATHS = 1_000;

    /** @var array<string, Node> by path */
    public array $nodes = [];
    /** Since which revision the nodes are unchanged; 0 before the first answer, */
    public int $from = 0;
    /** and the freshness of the newest answer that confirmed it. */
    public ?Freshness $freshness = null;

    /** @param list<string> $paths */
    public function __construct(private readonly array $paths)
    {
    }

    /**
     * @param list<string> $paths
     * @return list<self>
     */
    public static function of(array $paths): array
    {
        [$batches, $some, $bytes] = [[], [], 0];
        foreach ($paths as $path) {
            if (count($some) === self::MAX_PATHS || ($bytes + strlen($path) > self::MAX_BYTES && $some !== [])) {
                $batches[] = new self($some);
                [$some, $bytes] = [[], 0];
            }
            $some[] = $path;
            $bytes += strlen($path) + 4;
        }
        return [...$batches, new self($some)];
    }

    /**
     * Asks for changes since the last time; in halves, if that exceeds a request or a reply.
     *
     * @param \Closure(list<string>, ?int): Answer $ask for the nodes; the value is null if none has changed
     * @return list<self> this, or its replacements
     */
    public function refresh(\Closure $ask): array
    {
        try {
            $answer = $ask($this->paths, $this->freshness?->revision);
        } catch (InvalidRequest | TransportFailed $refusal) {
            $isTooMuch = $refusal instanceof InvalidRequest || str_contains($refusal->getMessage(), 'max_request');
            if (!$isTooMuch || count($this->paths) <= 1) {
                throw $refusal;
            }
            $halves = array_chunk($this->paths, intdiv(count($this->paths) + 1, 2));
            return array_merge(...array_map(static fn (array $half) => (new self($half))->refresh($ask), $halves));
        }
        $this->freshness = $answer->freshness;
        if ($answer->value !== null) {
            [$this->nodes, $this->from] = [$answer->value, $answer->freshness->revision];
        }
        return [$this];
    }
}
