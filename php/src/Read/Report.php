<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\NotReady;
use Roster\Freshness;
use Roster\Origin;
use Roster\Way;

/**
 * What the shared file says of itself in `meta/freshness`, and what follows from it for a path.
 *
 * @internal
 */
final class Report
{
    /** The writer rewrites its report every second. When it has not for so long, it is away. */
    private const SILENCE_MS = 3_000;

    /** @param array{revision: int, ageMs: int, writtenAt: int, sources: list<array<string, mixed>>} $told */
    private function __construct(private readonly array $told)
    {
    }

    public static function parse(string $json): ?self
    {
        $told = json_decode($json, true);
        return isset($told['revision'], $told['ageMs'], $told['writtenAt'], $told['sources']) ? new self($told) : null;
    }

    /** For how long the writer has been away; 0 while it is there. */
    public function silenceMs(): int
    {
        $silent = (int) (microtime(true) * 1_000) - $this->told['writtenAt'];
        return $silent > self::SILENCE_MS ? $silent : 0;
    }

    /**
     * How far an answer about these paths can be trusted.
     *
     * @param list<string> $paths
     * @throws NotReady if one of the sources behind it was never read as a whole
     */
    public function freshness(array $paths): Freshness
    {
        $silent = $age = $this->silenceMs();
        $origin = Origin::Live;
        $isComplete = true;
        foreach ($this->told['sources'] as $source) {
            if (!self::isBehind($source['roots'], $paths)) {
                continue;
            }
            if (!$source['whole']) {
                throw new NotReady($source['name'], "the shared file waits for {$source['name']}");
            }
            $age = max($age, $silent + ($source['ageMs'] ?? $this->told['ageMs']));
            $origin = $source['origin'] === 'RESTORED' ? Origin::Restored : $origin;
            $isComplete = $isComplete && $source['leftOut'] === 0;
        }
        return new Freshness($this->told['revision'], $age, $origin, $isComplete, Way::Shared);
    }

    /**
     * Whether a source with these roots has a say in what lies at or below one of these paths.
     *
     * @param list<string> $roots
     * @param list<string> $paths
     */
    private static function isBehind(array $roots, array $paths): bool
    {
        foreach ($roots as $root) {
            foreach ($paths as $path) {
                if (self::isUnder($path, $root) || self::isUnder($root, $path)) {
                    return true;
                }
            }
        }
        return false;
    }

    private static function isUnder(string $path, string $root): bool
    {
        return $root === '/' || $path === $root || str_starts_with($path, "$root/");
    }
}
