<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\NotReady;
use Roster\Freshness;
use Roster\Origin;
use Roster\Transport;

/**
 * The freshness of an answer according to `meta/freshness` in the shared file, when not all is well.
 *
 * @internal
 */
final class Report
{
    /** @param array{revision: int, ageMs: int, sources: list<array<string, mixed>>} $report */
    public function __construct(private readonly array $report, private readonly string $file)
    {
    }

    /**
     * How far an answer can be trusted.
     *
     * @param list<string>|string $subject the paths that it concerns, or one of the constants of `SharedFile`
     * @param int $silenceMs for how long the writer has been away
     * @param bool $isFound whether there is a result: instances of one source are known without the others
     * @throws NotReady if one of the sources behind it was never read as a whole
     */
    public function freshness(array|string $subject, int $silenceMs, bool $isFound = false): Freshness
    {
        $age = $silenceMs;
        $origin = Origin::Live;
        $isComplete = true;
        foreach ($this->report['sources'] as $source) {
            if (!self::isBehind($source, $subject)) {
                continue;
            }
            if (!$source['whole'] && $isFound && $subject === SharedFile::INSTANCES) {
                $isComplete = false;
                continue;
            }
            if (!$source['whole']) {
                $why = $source['ageMs'] === null ? 'has never been in sync' : 'has not been read as a whole';
                $cure = '`roster status` shows what it waits for';
                throw new NotReady($source['name'], "the source {$source['name']} $why, says $this->file; $cure");
            }
            $age = max($age, $silenceMs + ($source['ageMs'] ?? $this->report['ageMs']));
            $origin = $source['origin'] === 'RESTORED' ? Origin::Restored : $origin;
            $isComplete = $isComplete && $source['skippedNodes'] === 0 && !($source['settling'] ?? false);
        }
        return new Freshness($this->report['revision'], $age, $origin, $isComplete, Transport::Shared);
    }

    /**
     * Whether a source covers what is at or below one of these paths, or instances, or masters.
     *
     * @param array{supplies: list<string>, roots: list<string>} $source
     * @param list<string>|string $subject
     */
    private static function isBehind(array $source, array|string $subject): bool
    {
        if (!is_array($subject)) {
            $suppliesNodes = in_array('nodes', $source['supplies'], true);
            return in_array('instances', $source['supplies'], true) && ($subject === SharedFile::INSTANCES || !$suppliesNodes);
        }
        foreach ($source['roots'] as $root) {
            foreach ($subject as $path) {
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
