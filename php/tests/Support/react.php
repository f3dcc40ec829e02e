<?php

declare(strict_types=1);

// What the documentation uses of ReactPHP's event loop, for machines without it.

namespace React\EventLoop;

final class Loop
{
    private static array $ticks = [];
    private static array $streams = [];
    private static array $timers = [];
    private static bool $isStopped = false;

    public static function futureTick(callable $then): void
    {
        self::$ticks[] = $then;
    }

    public static function addReadStream($stream, callable $listener): void
    {
        self::$streams[(int) $stream] = [$stream, $listener];
    }

    public static function removeReadStream($stream): void
    {
        unset(self::$streams[(int) $stream]);
    }

    public static function addTimer(float $seconds, callable $then): object
    {
        $timer = (object) ['at' => microtime(true) + $seconds, 'then' => $then];
        return self::$timers[spl_object_id($timer)] = $timer;
    }

    public static function cancelTimer(object $timer): void
    {
        unset(self::$timers[spl_object_id($timer)]);
    }

    public static function addSignal(int $signal, callable $listener): void
    {
        pcntl_async_signals(true);
        pcntl_signal($signal, $listener);
    }

    public static function stop(): void
    {
        self::$isStopped = true;
    }

    public static function run(): void
    {
        while (!self::$isStopped && (self::$ticks || self::$streams || self::$timers)) {
            [$ticks, self::$ticks] = [self::$ticks, []];
            array_map(static fn (callable $tick) => $tick(), $ticks);
            foreach (self::$timers as $id => $timer) {
                if ($timer->at <= microtime(true) && isset(self::$timers[$id])) {
                    unset(self::$timers[$id]);
                    ($timer->then)($timer);
                }
            }
            $next = self::$timers ? min(array_column(self::$timers, 'at')) - microtime(true) : 1;
            $us = (int) max(0, min(1, $next) * 1e6);
            [$read, $none] = [array_column(self::$streams, 0), []];
            $read ? @stream_select($read, $none, $none, 0, $us) : usleep($us);
            foreach ($read as $stream) {
                isset(self::$streams[(int) $stream]) && self::$streams[(int) $stream][1]($stream);
            }
        }
    }
}
