<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Text;

/**
 * What a job threw, with where and why, for whoever looks at the job later. It has no arguments of functions: these may be
 * secret.
 *
 * The sidecar keeps 1,024 bytes of it all, so what helps most comes first.
 *
 * @internal
 */
final class JobFailed extends \RuntimeException
{
    private const MAX_FRAMES = 10;

    /** A long message leaves the rest to where it was thrown, and to what was thrown before. */
    private const MAX_MESSAGE_BYTES = 500;

    /** All causes together have this many bytes, and of many the first and the last ones have a line. */
    private const CAUSES_BYTES = 400;
    private const MAX_CAUSES = 4;

    public function __construct(public readonly \Throwable $thrown)
    {
        $lines = [
            self::cut($thrown->getMessage(), self::MAX_MESSAGE_BYTES),
            "in {$thrown->getFile()}:{$thrown->getLine()}",
            ...self::causes($thrown),
        ];
        foreach (array_slice($thrown->getTrace(), 0, self::MAX_FRAMES) as $frame) {
            $place = isset($frame['file']) ? " ({$frame['file']}:{$frame['line']})" : '';
            $lines[] = 'by ' . ($frame['class'] ?? '') . ($frame['type'] ?? '') . $frame['function'] . $place;
        }
        parent::__construct(implode("\n", $lines), previous: $thrown);
    }

    /** @return list<string> a line for each that was thrown before, and led to it */
    private static function causes(\Throwable $thrown): array
    {
        $causes = [];
        while (($thrown = $thrown->getPrevious()) !== null) {
            $causes[] = $thrown;
        }
        if (count($causes) > self::MAX_CAUSES) {
            // The last one is where it began.
            $causes = [$causes[0], ...array_slice($causes, 1 - self::MAX_CAUSES)];
        }
        $bytes = intdiv(self::CAUSES_BYTES, max(1, count($causes)));
        return array_map(static fn (\Throwable $cause): string => self::line($cause, $bytes), $causes);
    }

    private static function line(\Throwable $cause, int $bytes): string
    {
        $place = " in {$cause->getFile()}:{$cause->getLine()}";
        $what = 'after ' . Text::className($cause) . ': ' . preg_replace('/[\r\n]+/', ' ', $cause->getMessage());
        // Where there is no room for both, what it was is worth more.
        return strlen($what) + strlen($place) <= $bytes ? $what . $place : self::cut($what, $bytes);
    }

    private static function cut(string $text, int $bytes): string
    {
        $begin = Text::cut($text, $bytes);
        return $begin === $text ? $text : "{$begin}…";
    }
}
