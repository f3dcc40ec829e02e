<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * What a job threw, with where, for whoever looks at the job later. It has no arguments of functions: these may be secret.
 *
 * @internal
 */
final class JobFailed extends \RuntimeException
{
    private const MAX_FRAMES = 10;

    /** The sidecar keeps 1,024 bytes of it all: a long message leaves the rest to where it was thrown. */
    private const MAX_MESSAGE_BYTES = 500;

    public function __construct(public readonly \Throwable $thrown)
    {
        $message = $thrown->getMessage();
        $begin = Text::cut($message, self::MAX_MESSAGE_BYTES);
        $lines = [$begin === $message ? $message : "{$begin}…", "in {$thrown->getFile()}:{$thrown->getLine()}"];
        foreach (array_slice($thrown->getTrace(), 0, self::MAX_FRAMES) as $frame) {
            $place = isset($frame['file']) ? " ({$frame['file']}:{$frame['line']})" : '';
            $lines[] = 'by ' . ($frame['class'] ?? '') . ($frame['type'] ?? '') . $frame['function'] . $place;
        }
        parent::__construct(implode("\n", $lines), previous: $thrown);
    }
}
