<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;

/**
 * The event loop of a worker without another: waits for its connection and for what it watches.
 *
 * @internal
 */
final class Loop
{
    /** The pause after a failed wait: a signal, or more streams than select() accepts. */
    private const FAILURE_US = 1_000;

    /** @var array<array{resource, callable}> by stream number */
    private array $watched = [];
    /** @var array<int, mixed> the handled signals, and their previous handlers */
    private array $handlers = [];
    private bool $hadAsync = false;

    public function __construct(private readonly Logger $log)
    {
    }

    /** @param resource $stream */
    public function watch(mixed $stream, ?callable $serve): void
    {
        unset($this->watched[(int) $stream]);
        if ($serve !== null) {
            $this->watched[(int) $stream] = [$stream, $serve];
        }
    }

    /**
     * Waits for at most this long, and serves what has become readable of what is watched.
     *
     * @param list<resource> $read what else ends the wait when it is readable,
     * @param list<resource> $write or writable
     */
    public function wait(array $read, array $write, float $seconds): void
    {
        $this->watched = array_filter($this->watched, static fn (array $watched) => is_resource($watched[0]));
        foreach (self::select([...$read, ...array_column($this->watched, 0)], $write, $seconds) as $stream) {
            [, $serve] = $this->watched[(int) $stream] ?? [null, null];
            try {
                $serve !== null && $serve($stream);
            } catch (\Throwable $error) {
                $this->log->error('what serves a stream failed: {exception}', ['exception' => $error]);
            }
        }
    }

    /**
     * @param list<resource> $read
     * @param list<resource> $write
     * @return list<resource> those that can be read
     */
    public static function select(array $read, array $write, float $seconds): array
    {
        $us = (int) ($seconds * 1e6);
        if ($read === [] && $write === []) {
            usleep($us);
            return [];
        }
        $ready = Quiet::run(static function () use (&$read, &$write, $us): int|false {
            $none = null;
            return stream_select($read, $write, $none, intdiv($us, 1_000_000), $us % 1_000_000);
        });
        if ($ready === false) {
            usleep(self::FAILURE_US);
            return [];
        }
        return array_values($read);
    }

    /** Makes termination signals call this, unless the application handles them itself. */
    public function takeSignals(\Closure $stop): void
    {
        if (!function_exists('pcntl_signal')) {
            return;
        }
        $this->hadAsync = pcntl_async_signals(true);
        foreach ([SIGTERM, SIGINT] as $signal) {
            if (($before = pcntl_signal_get_handler($signal)) === SIG_DFL) {
                $this->handlers[$signal] = $before;
                pcntl_signal($signal, static function (int $signal) use ($stop): void {
                    $stop();
                    // A second interrupt at a terminal means not to wait.
                    $signal === SIGINT && pcntl_signal(SIGINT, SIG_DFL);
                });
            }
        }
    }

    public function giveSignalsBack(): void
    {
        foreach ($this->handlers as $signal => $before) {
            pcntl_signal($signal, $before);
        }
        if (function_exists('pcntl_async_signals')) {
            pcntl_async_signals($this->hadAsync);
        }
        $this->handlers = [];
    }
}
