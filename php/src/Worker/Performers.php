<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\JobBuried;
use Roster\Exception\JobReleased;
use Roster\Job;
use Roster\JobState;

/**
 * What performs jobs, by queue.
 *
 * @internal
 */
final class Performers
{
    /** By which name the sidecar asks for it. No application's command has it. */
    public const COMMAND = 'roster:perform';

    /** The largest result that is sent: a message has 1 MiB. */
    private const MAX_RESULT_BYTES = 512 << 10;

    /** @var array<callable> by queue */
    private array $performers = [];

    /** @param \Closure(array<string, mixed>): void $send sends the sidecar a report of a job */
    public function __construct(private readonly \Closure $send)
    {
    }

    /** @param ?callable(Job): mixed $perform null: the class that has the job's name */
    public function add(string $queue, ?callable $perform): void
    {
        $this->performers[$queue] = $perform ?? self::performByClass(...);
    }

    /** @return ?string what the job returned, as JSON, if that is kept */
    public function perform(mixed $data): ?string
    {
        $data = is_array($data) ? $data : [];
        $lease = new Lease((int) ($data['id'] ?? 0), (int) ($data['attempt'] ?? 0), $this->send);
        $job = self::job($data, $lease);
        $perform = $this->performers[$job->queue] ?? throw new NotFound("Nobody performs jobs of '$job->queue'");
        try {
            $returned = Returned::by("what performs jobs of '$job->queue'", $perform($job));
        } catch (\Throwable $thrown) {
            throw $lease->outcome ?? self::failed($thrown);
        } finally {
            $lease->end();
        }
        if ($lease->outcome !== null) {
            throw $lease->outcome;
        }
        return ($data['keepsResult'] ?? false) === true ? self::json($returned) : null;
    }

    /** By the first two of these the sidecar knows that a job did not fail. */
    private static function failed(\Throwable $thrown): \Throwable
    {
        return $thrown instanceof JobReleased || $thrown instanceof JobBuried ? $thrown : new JobFailed($thrown);
    }

    /** What is no JSON, or has no room in a message, is not kept: the job is done all the same. */
    private static function json(mixed $returned): ?string
    {
        try {
            $json = json_encode($returned, JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION);
        } catch (\Throwable) {
            return null;
        }
        return $json !== false && strlen($json) <= self::MAX_RESULT_BYTES ? $json : null;
    }

    /** As php-resque does it: a new object for each job, which finds `$args`, `$job` and `$queue` in itself. */
    private static function performByClass(Job $job): mixed
    {
        if (!class_exists($job->name) || !method_exists($job->name, 'perform')) {
            // A deploy may bring it.
            throw new \LogicException("there is no class $job->name with a method perform()");
        }
        $object = self::made($job->name, ['args' => $job->args() ?? [], 'job' => $job, 'queue' => $job->queue]);
        method_exists($object, 'setUp') && Returned::by("$job->name::setUp()", $object->setUp());
        $returned = Returned::by("$job->name::perform()", $object->perform());
        method_exists($object, 'tearDown') && Returned::by("$job->name::tearDown()", $object->tearDown());
        return $returned;
    }

    /**
     * An object with these properties. Classes need not declare them, which is deprecated, nor are those meant that they
     * keep to themselves. What is readonly is the constructor's to set, where it promotes it.
     *
     * @param array<string, mixed> $properties
     */
    private static function made(string $name, array $properties): object
    {
        $class = new \ReflectionClass($name);
        $isReadonly = static fn (string $name): bool => $class->hasProperty($name) && $class->getProperty($name)->isReadOnly();
        $promoted = array_filter(
            $class->getConstructor()?->getParameters() ?? [],
            static fn (\ReflectionParameter $it): bool => $it->isPromoted() && $isReadonly($it->name),
        );
        $names = array_map(static fn (\ReflectionParameter $it): string => $it->name, $promoted);
        $given = array_intersect_key($properties, array_flip($names));
        $object = new $name(...$given);
        self::give($object, array_diff_key($properties, $given));
        return $object;
    }

    /** @param array<string, mixed> $properties */
    private static function give(object $object, array $properties): void
    {
        $class = new \ReflectionObject($object);
        set_error_handler(static fn (): bool => true, E_DEPRECATED);
        try {
            foreach ($properties as $name => $value) {
                if (!$class->hasProperty($name) || $class->getProperty($name)->isPublic()) {
                    $object->$name = $value;
                }
            }
        } finally {
            restore_error_handler();
        }
    }

    /** @param array<mixed> $data */
    private static function job(array $data, Lease $lease): Job
    {
        $number = static fn (string $key): int => (int) ($data[$key] ?? 0);
        return new Job(
            $number('id'),
            (string) ($data['queue'] ?? ''),
            (string) ($data['name'] ?? ''),
            (string) ($data['payload'] ?? ''),
            JobState::Running,
            $number('priority'),
            $number('attempt'),
            $number('failures'),
            $number('retries'),
            $number('timeoutMs'),
            $number('enqueuedAt'),
            null,
            null,
            lease: $lease,
            uniqueKey: $data['uniqueKey'] ?? null,
            limitKey: $data['limitKey'] ?? null,
            dueAt: $data['dueAt'] ?? null,
        );
    }
}
